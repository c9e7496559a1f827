"""The commands of `backtalk`, by what they work on. Each imports what is heavy when it runs."""
