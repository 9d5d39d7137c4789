"""From a microphone, a file or standard input to segments of speech, in samples of a stream."""
