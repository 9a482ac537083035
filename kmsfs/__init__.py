"""kmsfs: an encrypted file system whose data keys are wrapped by master keys in an HSM."""
