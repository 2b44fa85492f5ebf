"""Inventory: supply networks, demand sources and the environment `InventoryNet-v0`."""
