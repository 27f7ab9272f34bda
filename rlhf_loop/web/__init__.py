"""The service over HTTP: `app.register_blueprint(rlhf_loop.web.blueprint(settings))`, or an application of its own."""

from rlhf_loop.web.app import blueprint, create_app

__all__ = ["blueprint", "create_app"]
