"""How good it is: scores, selection, verifiers, judges and agreement."""
