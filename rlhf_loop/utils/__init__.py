"""Small tools that know nothing of ratings."""
