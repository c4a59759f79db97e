"""What the examples share: a model that answers, and a way to show things. Not part of tracedflow."""
