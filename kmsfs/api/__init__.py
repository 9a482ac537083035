"""The wire protocol of AWS KMS: signatures, JSON 1.1, AWS's names and words for errors."""
