"""From a training row to the checkpoints that it trained, and from a checkpoint to its training rows."""
