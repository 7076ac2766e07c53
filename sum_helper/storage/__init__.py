"""What a helper may never forget: what it holds, what it has used, and what it has answered."""
