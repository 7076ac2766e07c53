"""Thousands of real MQTT clients in one process, against a real broker and a real coordinator."""
