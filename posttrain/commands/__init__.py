"""The commands of `posttrain`, one file per family."""
