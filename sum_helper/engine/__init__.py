"""Every decision of a helper, pure: which seeds it holds, which sums it reveals."""
