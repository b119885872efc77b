"""The command line, keras-ms."""
