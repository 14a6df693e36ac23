#!lua
-- Writes nothing, but is refused wherever a commit would be.
--
-- A script without flags is refused by a server that is full or a replica. So it is by one that
-- cannot write its file or has too few replicas.
--
-- KEYS: head, which finds the server
-- ARGV: none
-- Reply: 1

return 1
