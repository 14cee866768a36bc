"""Networks of containers: attachments, CNI plugins, slirp4netns, ports, names."""
