"""Many runs over one frozen body in one pass."""
