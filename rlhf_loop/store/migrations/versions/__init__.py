"""One module a revision. What is released is never edited: a change is a new revision."""
