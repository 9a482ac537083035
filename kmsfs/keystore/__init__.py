"""The key management service: CMKs in PKCS#11 tokens, metadata, data-key pool and cache."""
