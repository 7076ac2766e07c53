"""Every decision of a gateway, pure: what its site owes the federation above, and what a verdict means below."""
