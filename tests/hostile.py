"""Text that tries to become mark-up, and what of a page it must not change."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "hr", "img", "input"}
DRAWING = {"svg", "g", "defs", "path", "use", "text", "clippath", "rect"}
MARKUP = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)' x='",
    "</style></script></title></pre></details></table><h1>gone</h1>",
    "{{7*7}} {% include '/etc/passwd' %} ${7*7}",
    "<!-- --> ]]> <![CDATA[ --!>",
    "<svg onload=alert(1)><a href=javascript:alert(1)>",
    "&lt;b&gt; &amp;amp; &#x202e;",
)
INVISIBLE = (
    "\u202eabc\u2066def\u2069",
    "\x00\x01\x07\x1b[31mred\x1b]0;title\x07\r\x7f\x85",
    "\ud800 and \udfff",
    "a\u2028b\u2029c\u200b\ufeff",
)
STRINGS: tuple[str, ...] = (
    *MARKUP,
    "</script><script>alert(1)</script>",
    "<script src=https://example.invalid/x.js></script>",
    "<img src=https://example.invalid/x.png>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<object data=data:text/html,<script>alert(1)</script>>",
    "<embed src=javascript:alert(1)>",
    "<base href=https://example.invalid/>",
    "<meta http-equiv=refresh content='0;url=https://example.invalid/'>",
    "<link rel=stylesheet href=https://example.invalid/x.css>",
    "<form action=https://example.invalid/><input name=x autofocus onfocus=alert(1)>",
    "<body onload=alert(1)>",
    "<details open ontoggle=alert(1)>",
    "<math><mtext><table><mglyph><style><img src onerror=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<svg><foreignObject><body onload=alert(1)></foreignObject></svg>",
    "<style>*{display:none}</style>",
    "<template><script>alert(1)</script></template>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "<textarea><title><xmp><plaintext>",
    "</textarea></title></xmp></noscript>",
    "<a href='jav&#x09;ascript:alert(1)'>x</a>",
    "<marquee onstart=alert(1)>",
    "<video><source onerror=alert(1)></video>",
    "<!--<script>--><script>alert(1)//-->",
    "--></style></svg><script>alert(1)</script>",
    "]]></script><![CDATA[<script>alert(1)</script>]]>",
    "';alert(1)//\";alert(1)//`${alert(1)}`",
    "\\u003cscript\\u003ealert(1)\\u003c/script\\u003e",
    "{{ config.__class__.__mro__ }} {%raw%} {#x#} {{''.join}}",
    "{{ data.models }} {% for x in range(10**9) %}{% endfor %}",
    "$(rm -rf /) `id` | tee /tmp/x; DROP TABLE x;--",
    '=HYPERLINK("https://example.invalid")',
    "x' class='alarm' data-tags='ahead' id='verdict",
    'x" hidden data-value="1e999" style="position:fixed',
    "#verdict javascript:void(0) url(https://example.invalid/)",
    "\\input{/etc/passwd} $\\alpha$ \\write18{id} & % # _ ^ ~",
    "%3Cscript%3Ealert(1)%3C/script%3E",
    "+ADw-script+AD4-alert(1)+ADw-/script+AD4-",
    *INVISIBLE,
    "\ufeff<script>\ufffe\uffff",
    "\u0336\u0489z\u0300" + "\u0301" * 40,
    "<div>" * 300,
    "x" * 1_000_000,
)
"""What a model, a data set or a results file of a stranger can hold; each is tried in every place."""
GROUPS = (*(STRINGS[:-1][start : start + 11] for start in range(0, len(STRINGS) - 1, 11)), STRINGS[-1:])
"""The same, as many as fit into one field of a page together."""
HOSTILE = {"mark-up": " ".join(MARKUP), "invisible": " ".join(INVISIBLE), "deep": "<div>" * 300}


class Structure(HTMLParser):
    """Elements with their attributes, in order, without the text; and the text, without the elements.

    Of what is drawn inside a figure only the names are kept, as a set: its geometry follows the width of the labels.
    """

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, tuple[tuple[str, str | None], ...]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.others: list[str] = []
        self.drawn: set[tuple[str, ...]] = set()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if "svg" in self.open or tag == "svg":
            self.drawn.add((tag, *sorted(name for name, _ in attrs)))
        else:
            self.elements.append((tag, tuple(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def handle_comment(self, data: str) -> None:
        self.others.append(data)

    def unknown_decl(self, data: str) -> None:
        self.others.append(data)


def assert_inert(hostile: Structure, harmless: Structure, *, name: str) -> None:
    """The page with hostile text `HOSTILE[name]` has the elements and attributes of the one with a harmless word."""
    assert hostile.elements == harmless.elements
    assert {tag for tag, *_ in hostile.drawn} <= DRAWING
    assert hostile.drawn == harmless.drawn
    assert hostile.open == harmless.open == []
    assert hostile.others == harmless.others == []
    shown = "".join(hostile.text)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]", shown)
    for part in HOSTILE[name].split() if name == "mark-up" else ():
        assert part in shown
