"""From a microphone, a file or standard input to speech segments, in samples of a stream."""
