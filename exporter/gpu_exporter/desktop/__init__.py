"""The window: machines, their GPUs, the last hour, and a tray icon that tells the worst of it. Needs PySide6."""
