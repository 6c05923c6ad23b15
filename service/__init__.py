"""What makes the application a service: its file, its options, its server, its operator's tools."""
