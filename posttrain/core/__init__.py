"""The ground floor: chat text, token ids and masks, formats, models, batching, atomic files, errors."""
