"""Messages to chat-completions and back: pure translation, used by engines and by the client."""
