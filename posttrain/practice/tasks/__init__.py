"""The task families of the practice world and the words they are made of."""
