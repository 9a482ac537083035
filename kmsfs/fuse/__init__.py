"""The only importer of ``pyfuse3``: thin handlers, one error boundary, the session."""
