"""One file per point of a round: what each stage of the table does."""
