"""How the command was called: its name, its words, and how examples stand in its help."""

from __future__ import annotations

PROGRAM = "ltm-eval"


class Call:
    """The words of the call, for results files and error reports; `cli.main` sets them."""

    argv: tuple[str, ...] = ()

    @classmethod
    def command(cls) -> tuple[str, ...]:
        """Program and words."""
        return (PROGRAM, *cls.argv)


def examples(*lines: str) -> str:
    """An epilogue of examples; typer keeps line ends only between paragraphs."""
    return "\n\n".join(("[bold]Examples[/bold]", *(line.replace("[", r"\[") for line in lines)))
