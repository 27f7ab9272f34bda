"""What people see: the screens."""
