"""Other tools' own SDKs, each in an environment of its own, held against our readers and doors."""
