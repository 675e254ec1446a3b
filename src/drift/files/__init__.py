"""Where weights come from, and whether they are what they were.

In: a name (a shipped part, a file or folder, a hub id, a URL). Out: a local path, its tensors
fitted into a module, and its SHA-256. Nothing is unpickled. Start reading at `hub.locate`.
"""
