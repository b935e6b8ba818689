"""What the three stages share: cameras, scene folders, metrics, meshes, errors."""
