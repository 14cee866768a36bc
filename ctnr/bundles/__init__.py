"""From an image's configuration and a Run request to an OCI bundle: config.json, overlay directories, mounts."""
