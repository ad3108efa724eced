"""What a person looks at: the worker's status, as JSON on the admin port and as text in a terminal."""
