"""Makes the plain ``lm_eval`` command know the model ``prism`` and the tasks of this package.

lm-eval has no entry points for models. So ``prism_plugin_lm_eval.pth`` imports this module whenever Python starts, and
this module puts one finder on ``sys.meta_path``. It imports nothing; once ``lm_eval.models`` (before 0.4.10
``lm_eval.evaluator``) or ``lm_eval.tasks`` is imported (if ever), it adds our name or our folder of tasks to it.
``PRISM_NO_LM_EVAL_HOOK=1`` switches it off; ``lm_eval --include_path`` then finds the tasks, and
``import prism_plugin.evaluation.lm_eval`` registers the model.

Top level and free of imports on purpose: a module inside ``prism_plugin`` would load torch at every start of Python.
"""

import os
import sys


def _register_model(models):
    from lm_eval.api import registry

    known = getattr(registry, "model_registry", None)  # from 0.4.10 on
    if known is not None and "prism" not in known:
        known.register("prism", target="prism_plugin.evaluation.lm_eval:PrismLM")


def _register_by_import(evaluator):
    from lm_eval.api import registry

    if not hasattr(registry, "model_registry"):
        import prism_plugin.evaluation.lm_eval  # noqa: F401


def _include_tasks(tasks):
    from importlib.util import find_spec

    ours = os.path.join(find_spec("prism_plugin").submodule_search_locations[0], "evaluation", "tasks")
    manager_init = tasks.TaskManager.__init__

    def init(self, verbosity=None, include_path=None, include_defaults=True, **kwargs):
        theirs = [include_path] if isinstance(include_path, (str, os.PathLike)) else list(include_path or [])
        paths = [ours, *theirs] if include_defaults else theirs
        manager_init(self, verbosity, paths or None, include_defaults, **kwargs)

    tasks.TaskManager.__init__ = init


class Finder:
    """Lets the other finders find, and has the module's loader call ours afterwards."""

    extend = {  # noqa: RUF012
        "lm_eval.models": _register_model, "lm_eval.evaluator": _register_by_import, "lm_eval.tasks": _include_tasks,
    }  # fmt: skip

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        extend = cls.extend.get(name)
        if extend is None:
            return None
        specs = (f.find_spec(name, path, target) for f in sys.meta_path if f is not cls and hasattr(f, "find_spec"))
        spec = next(filter(None, specs), None)
        if spec is not None and spec.loader is not None:
            exec_module = spec.loader.exec_module

            def exec_and_extend(module):
                exec_module(module)
                try:
                    extend(module)
                except Exception as error:  # lm-eval must go on without us
                    import logging

                    logging.getLogger(__name__).warning("prism-plugin could not extend %s: %r", name, error)

            spec.loader.exec_module = exec_and_extend
        return spec


if os.environ.get("PRISM_NO_LM_EVAL_HOOK", "").lower() in ("", "0", "false", "no", "off"):
    sys.meta_path.insert(0, Finder)
