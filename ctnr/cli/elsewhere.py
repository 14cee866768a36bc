"""Commands of docker and podman that are not here: what does the same, or who."""

from __future__ import annotations

# How to read them: "ctnr WORD is not known here; CURE"
CURES = {
    "build": "buildah or podman build makes images; ctnr pull docker-archive:FILE takes them",
    "commit": "ctnr stop NAME; ctnr cp NAME:/ - | ctnr image import - IMAGE",
    "compose": "ctnr run A --- B runs several together; --depends-on NAME orders them",
    "export": "ctnr stop NAME; ctnr cp NAME:/ - >FILE",
    "history": "ctnr image inspect -f '{{json .history}}' IMAGE",
    "import": "ctnr image import FILE IMAGE",
    "load": "ctnr pull docker-archive:FILE, or oci-archive:FILE",
    "login": "skopeo login REGISTRY; its auth.json is read here, too",
    "logout": "skopeo logout REGISTRY",
    "pod": "ctnr run A --- B runs several together; --network=container:NAME shares a network",
    "push": "ctnr image export IMAGE oci:DIR, then skopeo copy oci:DIR docker://NAME",
    "save": "ctnr image export IMAGE docker-archive:FILE",
    "search": "skopeo list-tags docker://NAME tells the tags of an image",
    "secret": "ctnr run -v FILE:/run/secrets/NAME:ro",
    "image build": "buildah or podman build makes images; ctnr pull docker-archive:FILE takes them",
    "image history": "ctnr image inspect -f '{{json .history}}' IMAGE",
    "image load": "ctnr pull docker-archive:FILE, or oci-archive:FILE",
    "image push": "ctnr image export IMAGE oci:DIR, then skopeo copy oci:DIR docker://NAME",
    "image save": "ctnr image export IMAGE docker-archive:FILE",
    "volume exists": "ctnr volume inspect NAME: its exit status tells",
    "volume export": "ctnr run --rm -v NAME:/v IMAGE tar -C /v -c . >FILE",
    "volume import": "ctnr run --rm -i -v NAME:/v IMAGE tar -C /v -x <FILE",
}
