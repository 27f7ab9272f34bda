"""A client for the API of `rlhf-loop serve`, so that a Python application need not know HTTP.

    from rlhf_loop.client import Client, NewReview

    with Client(url, token) as client:
        answer = client.record(
            "What helps against hiccups?",
            "Hold your breath for a moment.",
            source="our-chatbot",
            review=NewReview(thumb="up", reviewer="patient-7"),
        )
        client.review(answer.id, 4, reviewer="patient-8", comment="It took a minute.")
        client.feedback(prompt="Why do we yawn?", response="Nobody knows.", thumb="down", reviewer="patient-7")
        for interaction in client.interactions(source="our-chatbot"):
            print(interaction.id, interaction.end_user_rating)

Each write bears an Idempotency-Key, so that it is done once, although it is sent again where no answer came.
"""

from rlhf_loop.client.api import (
    ApiError,
    Client,
    ConflictError,
    Interaction,
    NewInteraction,
    NewReview,
    NoAnswerError,
    NotAllowedError,
    NotFoundError,
    Preference,
    Recorded,
    RejectedError,
    Review,
    UnavailableError,
)

__all__ = [
    "ApiError",
    "Client",
    "ConflictError",
    "Interaction",
    "NewInteraction",
    "NewReview",
    "NoAnswerError",
    "NotAllowedError",
    "NotFoundError",
    "Preference",
    "Recorded",
    "RejectedError",
    "Review",
    "UnavailableError",
]
