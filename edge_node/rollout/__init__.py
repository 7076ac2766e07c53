"""The task that this device takes from the federation, where its owner has allowed that: fetch, try, keep, go back."""
