"""The service over HTTP: `app.register_blueprint(rlhf_loop.web.blueprint(settings))`, or an application of its own."""

from typing import TYPE_CHECKING, Any

from rlhf_loop.utils.extras import require

require("flask", "serve")  # before the imports, which would only name a module

if TYPE_CHECKING:
    from rlhf_loop.web.app import blueprint, create_app

__all__ = ["blueprint", "create_app"]

if not TYPE_CHECKING:  # as in the package's own: who looks at one setting need not wait for all pages

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from rlhf_loop.web import app

        return getattr(app, name)
