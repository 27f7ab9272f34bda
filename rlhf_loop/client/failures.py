"""What can go wrong with a call of the API, as exceptions."""

from __future__ import annotations

from rlhf_loop.errors import RlhfLoopError


class ApiError(RlhfLoopError):
    """The service refused a request, or did not answer it; `status` is None where no answer came.

    `detail` is what the service says, `request_id` finds it in its log.

        ApiError
        ├── NoAnswerError           it cannot be reached, or what answers is something else
        ├── NotAllowedError         401, 403: the token is not valid, or not for this
        ├── NotFoundError           404: there is no such interaction or review
        ├── ConflictError           409: the id is taken
        ├── RejectedError           400, 413, 422 ...: the request itself is wrong
        └── UnavailableError        429, 5xx: again later, perhaps
    """

    def __init__(self, detail: str, *, status: int | None = None, request_id: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.request_id = request_id


class NoAnswerError(ApiError):
    """The service cannot be reached, or what answers is something else."""


class NotAllowedError(ApiError):
    """The token is not valid, or not for this."""


class NotFoundError(ApiError):
    """There is no such interaction or review."""


class ConflictError(ApiError):
    """The id is taken."""


class RejectedError(ApiError):
    """The request itself is wrong."""


class UnavailableError(ApiError):
    """The service cannot do it now."""
