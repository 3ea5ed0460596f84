"""Calls `ltm_eval.harness.plug` when lm-eval is imported, so that `lm_eval --model ltm` works by itself.

`ltm_eval_bridge.pth` imports this module at every start of Python. It therefore lies outside `ltm_eval`, imports
nothing but `sys`, is short (it may have to be compiled each time), and never prints or raises: whatever is wrong with
our package, Python and the rest of lm-eval work as before. A .pth line that imports is read up to Python 3.17
(PEP 829); by then lm-eval's own plug-in discovery has long taken over.
"""

import sys


class Bridge:
    """Meta-path finder of the modules of lm-eval that `ltm_eval.harness.plug` has to see; others it passes by."""

    @staticmethod
    def find_spec(name, path=None, target=None):  # type: ignore[no-untyped-def]
        """The spec that the other finders give, with our hook; None leaves the module to them."""
        if name in ("lm_eval.models", "lm_eval.tasks.manager", "lm_eval.loggers.evaluation_tracker"):
            try:
                from ltm_eval.harness import plug

                return plug.find_hooked(name, path, target)
            except (Exception, SystemExit):  # noqa: BLE001, S110
                pass  # a plug-in that fails must not take its host down
        return None


sys.meta_path.insert(0, Bridge)
