"""An SFTP hub for demo, laptop and tests: layout, permissions and admin operations as in production."""
