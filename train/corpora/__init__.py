"""From speech corpora in their official layouts to checked manifests, and to who is trained on and who is not."""
