"""README's ten lines, and names that are misspelt, for `make lint` to hold the package's types against; never run."""
# ruff: noqa: T201

import rlhf_loop
from rlhf_loop import Rating, Settings, import_ratings, open_database, rate, record, rerank_candidates, sample, train

settings = Settings.from_env()
database = open_database(settings.database_url)
import_ratings(database, sample.RATINGS_FILE)  # or yours: CSV, XLSX, JSONL, Parquet
(answer,) = record(database, [Rating("What helps against hiccups?", "Hold your breath.", source="our-chatbot")])
rate(database, answer, rating=4, reviewer="anna")
outcome = train(database, settings)  # goes live only if it ranks better than the order in which answers came
print(outcome)
for ranked in rerank_candidates(sample.QUESTION, sample.CANDIDATES):
    print(ranked["rank"], ranked["score"], ranked["text"])

_ = rlhf_loop.trian  # type: ignore[attr-defined]
rlhf_loop.train(1, 2)  # type: ignore[arg-type]
