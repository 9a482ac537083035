"""The only importer of ``cryptography``. Pure: nonces and randomness are arguments."""
