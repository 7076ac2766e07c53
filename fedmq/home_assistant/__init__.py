"""Shows a federation and its nodes to Home Assistant, Node-RED and other readers of retained JSON topics."""
