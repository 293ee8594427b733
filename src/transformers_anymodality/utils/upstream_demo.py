"""As `upstream`, of gradio."""

# Puts a file where the page's visitors may read it; gradio does so itself with what a component shows, but not in HTML.
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder
