"""What is promised of a policy: exact bounds, the threshold that they allow, and the file that says so."""
