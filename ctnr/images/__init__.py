"""Images: references, transport by skopeo, a store of blobs, and layers unpacked once, ready for overlayfs."""
