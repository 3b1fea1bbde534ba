// Where the page gets its data: from the explorer's server, or from the files of an exported page, which has less.

export const STATIC = "static" in document.documentElement.dataset;
const implementation = await import(STATIC ? "./files.js" : "./server.js");

export const { images, match, pairs, pictureAddress, project, tokens } = implementation;
export const { cancelJob, channel, channels, coloursAddress, job, maskAddress, maskOfJobAddress } = implementation;
export const { masksOfJobAddress, propagate, search, upload, video, videos } = implementation;
