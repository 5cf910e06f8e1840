"""What identifies tokenised rows, so that a resumed run cannot go on with others."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import pyarrow as pa
from datasets import Dataset

from posttrain.train.batches import Ragged


def fingerprint(dataset: Dataset) -> dict[str, str]:
    """Return a digest of each column of token lists, the same for the same rows in the same order."""
    digests = {}
    for column in dataset.column_names:
        kind = dataset.data.schema.field(column).type
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
            continue
        ragged = Ragged(dataset, column)
        digest = blake2b(ragged.lengths().astype(np.int64).tobytes(), digest_size=16)
        for index in range(len(ragged)):
            digest.update(np.ascontiguousarray(ragged[index]).tobytes())
        digests[column] = digest.hexdigest()
    return digests
