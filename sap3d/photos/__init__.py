"""Own photos: import, masks, the contact sheet."""
