"""As `upstream`, for gradio."""

# Puts a file where the page's visitors may read it; gradio does so itself for components, but not for HTML.
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder
